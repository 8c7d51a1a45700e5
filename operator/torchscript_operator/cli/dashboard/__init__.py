"""tsm dashboard: a page over the user's own kubeconfig, served to this machine alone; it reads and changes nothing."""
