"""The column types, and what an engine carries for them: keys, rollout stages and listeners."""
