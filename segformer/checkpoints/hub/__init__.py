"""Models of the Hugging Face Hub by name, and what their cards say.

The one room that knows huggingface_hub. What holds for that holds here: its cache (HF_HOME), its
locks, its token (HF_TOKEN, or the file of `hf auth login`), HF_ENDPOINT and HF_HUB_OFFLINE.

name.py    HubName, `hf:org/name@revision`
calls.py   requests to the Hub, and its errors as ours
folder.py  HubFolder, a model at one commit as a folder of the cache; resolve
card.py    Card, a README.md's license and first words
"""
