// Package translate turns a user's transaction into what one member is asked to do, and the member's answer back
// into the user's view. It is pure: requests in, requests out; it knows no client, no clock and no network.
//
// A user's transaction goes through three steps:
//
//	Plan       what it may touch, on which member, and which keys' state must be known (once per transaction)
//	Evaluate   on a known state: which branches run, what is written (once per attempt)
//	Guarded    with a stamp: the guards, and the writes that land only if that state still holds; several make a Batch
//
// The guards keep these invariants of the protocol (docs/architecture/transactions.md):
//
//   - a stamp lands on a key only above every stamp that wrote, deleted or compared it: per touched slot
//     `Value(slot) < T`, per touched key a pin or `Value(key) < T`;
//   - nothing is decided on a guess: every key that a compare or a create stamp relied on is pinned to the member
//     revision it was read at, so the transaction refuses itself when the guess was wrong;
//   - what lands, or is refused by itself, is named by a manifest of the same member revision. What is refused together with
//     others leaves nothing, and its stamps are marked by a request of their own (Batch.Mark);
//   - no revision of a member deletes a key and puts it: what does both takes several, under locks (rounds.go);
//   - a refusal by an operation's own guards carries the present state of what was pinned, so that the next attempt needs
//     no read.
package translate
