"""Examples of deployments, and a check of the Dockerfile."""
