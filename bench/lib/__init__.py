"""What bench/run is made of: one module for each section, and what they share."""
