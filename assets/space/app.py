from lama_minimal.app import serve

if __name__ == "__main__":
    serve(["model"], host="0.0.0.0")
