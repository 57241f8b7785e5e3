"""The inference server: engines, admission, heartbeat and recovery."""
