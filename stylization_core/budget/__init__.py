"""The content budget: limits on content, the search for the strongest setting that keeps them, its curve and report."""
