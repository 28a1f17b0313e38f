"""What our processes ask of the network and leave on the disk, seen from a network of their own."""
