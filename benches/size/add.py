# What people publish to put a digest into repositories.json:
# add.py FILE REPOSITORY REFERENCE IMAGE
import json
import sys

path, repository, reference, image = sys.argv[1:]
with open(path) as f:
    data = json.load(f)
data["Repositories"][repository][reference] = image
with open(path, "w") as f:
    json.dump(data, f)
