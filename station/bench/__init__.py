"""How fast this machine is, and how near to what it could do: benchmarks that are run, never timed tests.

timing    contenders in turn, A B C A B C, so that a bad moment of the machine hurts all of them; medians of the rounds' ratios
peers     what others do for the same two outputs: a literal Grad-CAM with hooks, autograd through the head, the package `grad-cam`
engines   the engines that can take part
floor     the network's multiply-accumulates over what this machine can do of them in a second
network   engines against peers and floor: needs torch, numpy, OpenCV and safetensors, nothing of cameras, PLCs and recipes
line      the station's own line on a simulated camera and a PLC behind a pseudo terminal, stage by stage, by a stopwatch
report    the same facts as text, ratios first, and as COMMANDS.md's JSON

`python -m station.bench.network` is the command for a bare machine with a GPU; `station bench` adds the line. Absolute times belong to the
machine and to its moment: what may be compared are the ratios of one run.
"""
