// Command bench measures echo servers beside each other.
//
//	go run ./bench echo    requests per second, CPU per request, latency
//	go run ./bench idle    memory and CPU of connections that do nothing
//
// Every server runs in a process of its own, alone on one core; the load
// generator has another. Servers take turns, round by round (A B C, B C A, …), so
// that a machine whose speed drifts drifts for all of them, and what is compared
// are ratios within a round. Every byte that comes back is compared with what was
// sent.
//
// How a run goes: the catalog says which servers there are and build makes them;
// a contest goes through cells, rounds and servers and makes one row of each
// trial; report turns rows into tables, and the record keeps the rows themselves.
package main
