//! Each alarm watches a metric that there is, and has its place in the runbook.
