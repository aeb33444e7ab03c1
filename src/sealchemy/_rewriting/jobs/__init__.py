"""A run in several processes, each of which takes one range of the table after the other."""
