"""What is found out about a table before its first row is rewritten, and before an application starts."""
