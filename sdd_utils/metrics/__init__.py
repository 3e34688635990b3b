"""What training costs: FLOPs, energy, emissions."""
