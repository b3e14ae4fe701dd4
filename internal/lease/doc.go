// Package lease keeps the leases of a meta cluster. docs/architecture/leases.md has the protocol.
//
// A lease is three things:
//
//	timer      a native lease on the coordinator, and attached to it the sentinel, a key that names the lease. Keep-alives go
//	           there: no member, no stamp, no disk. The lease lives as long as its sentinel.
//	record     `lease/<id>` on every member: which grant of the id it is, its TTL, and whether it is dead. A put that attaches
//	           a key compares it.
//	entries    `attached/<id>/<key>` on the key's member, for each attached key: written and deleted with the key.
//
// A member knows of no lease and so never removes a key by itself. It ends like this: the sentinel goes (expiry, or
// revocation); every record is marked dead; the attached keys are deleted by stamped transactions; the records go.
//
// Invariants:
//
//   - a grant has a random name that no other has, of whatever id: nothing that comes late can hit a later grant of the id.
//   - a record comes after its sentinel, and only in the epoch in which the sentinel was seen. So a rebuild of the coordinator,
//     which raises the members to a new epoch before it reads the records, restores every timer that it has to.
//   - a record is marked dead only in an epoch in which the coordinator showed no sentinel of its grant, or beside another that
//     is dead already. No record is removed before all are dead, so one that is dead among others proves the death.
//   - a record is removed only when no entry of its lease is left on its member; a dead one gains none.
//   - a key is deleted as one that was seen attached, at the revision it was seen at, while the record was dead.
//   - ErrLeaseNotFound is answered only when no sentinel is there and no record lives: no key is attached afterwards.
//
// Every step can be repeated, by any process, and none needs to know who began: what a process leaves behind when it dies
// is in the sentinels and records. What each crash leaves is listed in docs/architecture/leases.md.
package lease
