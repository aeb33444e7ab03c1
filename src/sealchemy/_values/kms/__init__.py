"""Keys that a key management service (KMS) has wrapped."""
