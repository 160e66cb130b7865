"""What BoostedCalls is measured beside: small systems of our own making, each as well tuned as its name allows."""
