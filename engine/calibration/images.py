READER = None
