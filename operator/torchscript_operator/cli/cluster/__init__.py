"""What the command line knows of a cluster: one module talks to it, the others are pure."""
