// Package member is how a process talks to one member cluster: what is asked of it, how its answers are read, and what is remembered
// of it between requests. A Member knows nothing of other members, of stamps that are still to be taken, or of the merged log.
//
// Its invariants:
//
//   - A write is sent once for each call ([Member.Send]). What may be repeated is repeated by the caller, who knows that it does no
//     harm, with [Persist] or [WhenBack].
//   - Reads are linearizable, or they name a member revision that this process has seen on the member. Then any server may answer,
//     and one that lags is asked again linearizably. The exception is [Member.ReadKeys] when it is told so: what it returns may be
//     outdated, and only guards may rely on it.
//   - The revisions that linearizable answers show do not decrease. A member that answers below what it has shown has lost data, or
//     was restored: that is logged once, and [Member.WentBack] reports it until the member has caught up.
//   - A fence is raised in the epoch that the caller names, and never lowered ([Member.Raise]).
//   - Once Config.Stopped gives a reason, no transaction is sent any more, and every error of a member names it.
//
// All methods end with their caller's context. Txn, and the reads at a revision, end with the process's life, too; Send, Revision,
// AwaitBack and LookForStrays do not.
package member
