"""What an operator is told of the service: metrics, traces, and what is written down of changes and queries."""
