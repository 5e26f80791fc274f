"""When two arms agree: the rule, the yardstick it measures with, and what it can see."""
