"""One page to walk through the networks: the run's numbers, and HTML, CSS and JavaScript."""
