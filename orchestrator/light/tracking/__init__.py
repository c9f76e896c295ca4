"""What is followed while key is made: small corrections beside the calibrated values, which stay as they are."""
