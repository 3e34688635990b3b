"""What training costs and what a pruned network is worth: FLOPs, energy, size and speed."""
