"""Stress: minutes of random load with the canary on, which must never find a wrong summary."""
