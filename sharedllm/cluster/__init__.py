"""Work of many processes and machines, on Ray (extra "ray")."""
