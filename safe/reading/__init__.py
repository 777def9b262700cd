"""How do tar shards, here or in an object store, become batches that can be believed?"""
