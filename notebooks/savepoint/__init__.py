"""savepoint: stop a training run anywhere, resume it, and get the same weights, bit for bit.

You complete this package over the course, and take it home. One module an incident:

    checkpoint   01  save and load everything that a training run consists of
    seeding      02  the same seed, the same run
    files        03  a file is the old one or the new one, never half of each
    distributed  03  one writer, one RNG state per rank
    resume       04  continue at the right epoch, batch and sample
    compat       05  old and foreign checkpoints, read safely
    storage      06  keep the right checkpoints on a disk that fills

Import what you need from the modules: ``from savepoint.checkpoint import save_checkpoint``.

**epoch** means one thing everywhere: the 0-based index of the last *completed* epoch, -1 before
the first. The next to run is ``epoch + 1``.
"""
