"use strict";
// The answer first: the peak, who held it, what reached it; and what failed or is missing.

function headlineElement(scope, page, { jumpToPeak, jumpToOom }) {
  const told = scope.headline;
  const strong = (text) => element("strong", { text });
  const whole = told.device_total_bytes;
  const of = whole ? ` (${formatShare(told.peak_bytes, whole)} of ${formatBytes(whole)})` : "";
  // What the caching allocator had beyond it is worth a word where it is more than a little.
  const most = scope.segments ? told.reserved_peak_bytes : 0;
  const reserved = most > 1.05 * told.peak_bytes ? `; at most ${formatBytes(most)} reserved` : "";
  const step = told.step ? `, in step ${formatCount(told.step.number)} ${told.step.name ? `(${told.step.name})` : `of ${told.step.root_module || "a model"}`}` : "";
  const window = page.window_ns ? " in this window" : "";
  const answer = element(
    "h1",
    { title: formatExactBytes(told.peak_bytes), "data-bytes": told.peak_bytes },
    element("span", { class: "figure", text: formatBytes(told.peak_bytes) }),
    element("span", { class: "words", text: ` peak${window} of ${scope.title}${of}, at ${formatTime(told.peak_ns)}${step}${reserved}` }),
  );
  const lines = [answer, ...ownerLines(scope, told, strong)];
  const groups = scope.grouped(scope.liveSites(scope.peakCut), "category");
  const banners = [...oomBanner(scope, told, jumpToOom), ...lossBanners(page)];
  return [
    element("div", { class: "answer" }, ...lines),
    element("div", { class: "composition" }, ...compositionElements(groups, told.peak_bytes, jumpToPeak)),
    banners.length ? element("div", { class: "banners" }, ...banners) : null,
  ];
}

function ownerLines(scope, told, strong) {
  const lines = [];
  const { module, source, operator } = told.largest;
  // What holds a small part of it is no answer.
  const matters = (owner) => owner && owner.bytes >= told.peak_bytes / 20;
  const share = (owner) => `${formatBytes(owner.bytes)} (${formatShare(owner.bytes, told.peak_bytes)})`;
  const owners = [
    matters(source) && ["line ", source],
    matters(module) && ["module ", module],
    matters(operator) && ["operator ", operator],
  ].filter(Boolean);
  if (owners.length) {
    const line = element("p", { class: "owners" }, "Most by ");
    owners.forEach(([kind, owner], place) => {
      line.append(place ? " · " : "", element("span", { class: "faint", text: kind }), strong(owner.name), ` ${share(owner)}`);
    });
    lines.push(line);
  }
  const reached = told.reached;
  if (reached) {
    const backward = reached.forward_operator ? ` (backward of ${reached.forward_operator})` : "";
    const line = element("p", { class: "reached" }, "Reached by ");
    const what = reached.label || (reached.category === "other" ? null : reached.category);
    line.append(strong(formatBytes(reached.bytes)), what ? ` of ${what} from ` : " from ");
    line.append(strong(reached.operator || "outside any operator"), backward);
    if (reached.module) line.append(" in ", strong(reached.module));
    if (reached.source) line.append(" at ", strong(reached.source));
    lines.push(line);
  }
  const { beside } = scope.page;
  const own = beside.find(({ process, device }) => process === scope.process.key && device === scope.device);
  if (own) lines.push(element("p", { class: "beside" }, "Beside it, not from torch's allocators: ", element("strong", { text: own.text }), " (one by one under About)"));
  return lines;
}

function compositionElements(groups, total, jumpToPeak) {
  const bar = element("button", {
    class: "composition-bar",
    type: "button",
    title: "What the peak was made of: go there",
    "aria-label": `Peak by category: ${groups.map(({ name, bytes }) => `${name} ${formatBytes(bytes)}`).join(", ")}`,
    onclick: jumpToPeak,
  });
  const legend = element("ul", { class: "legend" });
  for (const { name, bytes } of groups) {
    const part = element("span", { "data-category": name });
    part.style.flexGrow = bytes;
    part.style.background = Theme.category(name);
    bar.append(part);
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = Theme.category(name);
    legend.append(
      element("li", { title: formatExactBytes(bytes) }, swatch, name.replaceAll("_", " "), " ", element("strong", { text: formatBytes(bytes) }), ` ${formatShare(bytes, total)}`),
    );
  }
  return [bar, legend];
}

function oomBanner(scope, told, jumpToOom) {
  const total = scope.told.instants.totals.oom;
  const last = told.ooms[told.ooms.length - 1];
  if (!total || !last) return [];
  const free = last.free_bytes === null ? "" : `; ${formatBytes(last.free_bytes)} were free`;
  const times = total > 1 ? ` ${formatCount(total)} times, the last` : "";
  const after = last.went_on ? " The program went on." : "";
  const text = `Out of memory${times} at ${formatTime(last.ns)}: ${last.by} asked for ${formatBytes(last.bytes)}${free}.${after}`;
  return [
    element("div", { class: "banner bad-banner", role: "alert" }, element("span", { text }), element("button", { type: "button", text: "Jump to OOM", onclick: jumpToOom })),
  ];
}

function lossBanners(page) {
  const lines = page.losses.map(({ text }) => text.replace(/^(lost|cut)\s+/, (_, word) => (word === "lost" ? "Lost: " : "Cut: ")));
  if (page.window_ns) lines.unshift(`Only from ${formatTime(page.window_ns[0])} to ${formatTime(page.window_ns[1])} (--window).`);
  if (page.only.length) lines.unshift(`Only ${page.only.join(', ')}.`);
  if (page.left_out) lines.push(`${formatNumberOf(page.left_out, "more device")} with smaller peaks left out.`);
  if (page.quiet.length) lines.push(`Without an event in this window: ${page.quiet.join(", ")}.`);
  const serious = page.losses.some(({ style }) => style === "warning");
  if (!lines.length) return [];
  return [element("div", { class: `banner ${serious ? "warn-banner" : ""}`, text: lines.join(" · ") })];
}
