"""What a running job tells those who watch it: gauges for Ray's metrics, records for its logs."""
