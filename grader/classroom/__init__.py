"""A class: an ordinary nbgrader course directory, and the configuration that makes it safe."""
