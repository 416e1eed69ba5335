"""Station: a camera sees a part, a network judges it, a PLC is told.

One frame walks through these rooms, in `station run`, `station replay` and the tests alike:

    drivers.isolated     the camera process copies a frame into shared memory
    line.Line.step       one turn of the loop: what the PLC said last goes through these rooms, and the answer goes out
    triggers             which parts it asks for: new ones, those it jumped over, old ones again
    counting             whose frame it is, one part after the other: fires the camera, or matches what a sensor fired
    judging              the part's one answer: inspected, judged, kept
    inspector            Frame -> Inspection: preprocess, classify, localize, measure
    failsafe.Gate        Inspection -> Result: the only room that can say PASS
    ledger               the result is on disk before anyone hears it
    answers              one answer stands on the wire until it is acknowledged
    drivers.modbus_rtu   the PLC is told, and acknowledges
    publisher            after the answer: recordings

Processes and threads, and what each owns:

    daemon, main thread      network, serial port, state, ledger. The only real-time loop; the heartbeat advances nowhere else
    camera process           Harvesters and the vendor's code, which crash and hang: killed and respawned
    daemon, publisher        recordings, behind a bounded queue: full drops the picture, counted, never the part
    daemon, control          the Unix socket; each request waits in a bounded queue for the main thread
    daemon, prepare          for the length of a changeover: loads, verifies and warms the next Inspector
    simulated line           only where the PLC is simulated: the PLC and its conveyor, at the far end of a pseudo terminal

State has one owner each: `Condition` the line's state and the causes of error, `Numbering` the last part's number, the three ways of
`counting` the parts that wait, `Judging` the job, `Answers` what the result registers say, `Handshake` the command under way and the recipe
asked for, `Changeover` the inspector, which is recipe and network in one immutable object, `Wire` what the PLC said; history is in SQLite.
"""
