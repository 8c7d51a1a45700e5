"""The Open Inference Protocol's gRPC messages; `make generate` makes open_inference_pb2 from open_inference.proto."""
