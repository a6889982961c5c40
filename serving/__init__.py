"""What runs in production: the client and the embedded model server. Knows SavedModels only by their signatures."""
