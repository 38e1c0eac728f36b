"""The flashable image for Raspberry-Pi-class boards: built without root, loop device, mount or container."""
