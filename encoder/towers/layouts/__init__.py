"""Other people's layouts of towers' weights: told apart by what is in them, and read as open_clip's.

`table.py` has the list of them. `plain.py` and `hugging_face.py` say which network it is, `renaming.py` what its
tensors are called here, and `preprocessing.py` how its images are prepared. `strangers.py` says what a file or folder
is that is none of them.
"""
