"""Simulated hardware, below the drivers: nothing above can tell it from the real thing.

Cameras: a GenTL producer that any consumer loads like a vendor's (`producer.c`, compiled by `build`; docs/simulated-producer.md), shown
pictures and given orders through `scene`. `alone` streams them without the driver, by a consumer of its own (`consumer`).

The line: `line` is a process with a PLC at the far end of a pseudo terminal. In it `rtu_server` speaks Modbus RTU, `plc` runs the
schedule, `judge` watches the station, and `conveyor` lays the pictures of `parts` before the camera. The PLC side is written from the
page of the wire alone and imports nothing of the station or its drivers, because it is their judge.
"""
