// A library that calls a function of its own through its linkage table, as libtorch_cpu does.
#define EXPORTED extern "C" __attribute__((visibility("default"), noipa))

EXPORTED int linked_inner(int value) {
  return value + 1;
}

EXPORTED int linked_outer(int value) {
  return 10 * linked_inner(value);
}

// In .bss and in .data, as torch's variables are.
unsigned long linked_zeros[1000];
unsigned long linked_given = 7;

EXPORTED void linked_set(unsigned long value) {
  linked_zeros[999] = linked_given = value;
}
