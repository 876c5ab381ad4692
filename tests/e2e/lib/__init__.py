"""What the end to end tests stand on: a sandbox, namespaces, processes, official peers, proxies, a small internet."""
