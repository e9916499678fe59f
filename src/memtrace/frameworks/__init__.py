"""memtrace inside other tools: pytest, notebooks, trainers, servers. Each imports only its own."""
