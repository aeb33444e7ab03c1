"""All that differs between databases. To support another one, add a module and name its class in `access.py`."""
