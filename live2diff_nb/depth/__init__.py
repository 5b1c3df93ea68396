"""How near each pixel is: the small network, MiDaS, models of the hub."""
