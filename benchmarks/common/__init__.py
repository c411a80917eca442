"""What evidence and cost share: hosts of the pocket models, cases, kept cells, statistics, reports."""
