"""From a plan to an artifact: layers encoded some rows at a time, written where the plan says."""
