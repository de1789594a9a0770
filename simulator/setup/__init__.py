"""What is simulated: scenarios and their settings, read strictly."""
