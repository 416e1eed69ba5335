"""The outside world: cameras and PLCs. Knows hardware and nothing of inspection; never imports `station` or torch.

A camera promises what `camera.Camera` says, a PLC is told what `plc.StationSignals` holds. Two exceptions leave this package:

    Exception
    +-- camera.CameraError    a camera is not there, was lost, or refuses a feature
    +-- plc.PlcError          the wire is cut, silent, or speaks something else

Simulators stand below the drivers in `simulated`: a GenTL producer that Harvesters loads like a vendor's, and a PLC at the far end
of a pseudo terminal. Nothing above a driver can tell them from the real thing, except by the driver's `simulated` flag.
"""
