"""Who runs it: flags to a configuration, a configuration to stages, stages to rows, rows to figures and a report."""
