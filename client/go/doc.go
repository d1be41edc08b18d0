// Package ternion is a client for a ternion server: text generation by BitNet
// models over gRPC.
//
//	client, err := ternion.Connect("http://127.0.0.1:50051", ternion.Config{})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	for event, err := range client.Generate(ctx, ternion.Text("Once upon a time")) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Delta.GetText())
//	}
//
// Five things to know:
//
//   - Leaving the loop over [Client.Generate], like the end of its context,
//     cancels the request on the server. The same holds for
//     [Session.Events], for all requests of the session.
//   - Deadlines are those of the context, and end a loop with a
//     [DeadlineExceededError]. The Finished event that the server then sends,
//     with the usage, mostly comes too late to be seen. In a [Session], where
//     each request has a time of its own, it is seen.
//   - Errors are sorted by what a caller does next, not by status code: change
//     the request, come back later, or give up. What the server said in
//     google.rpc details (fields, delays) is in their fields.
//   - A request made [Resumable] survives a connection that breaks, and one
//     with an [IdempotencyKey] may be sent again.
//   - Messages are those of the protocol, in package ternionpb. A type stands
//     beside them here only where it adds something.
package ternion
