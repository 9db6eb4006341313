"""The demo: NASA's Blue Marble, a checkpoint trained for it, and the command and SQL on both.

bluemarble.py  the picture, its land/water mask, and the archive cut from it
demo.py        `make demo`: run the archive, ask for areas, draw the classes
train.py       training the checkpoint from scratch
crops.py       the crops it is trained on
reference.py   the plain sliding window that `swath run` must agree with
evaluate.py    the held-out figures of the model card
checkpoint/    the trained weights and their model card
"""
