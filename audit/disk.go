package audit

// A Disk is where a log is written, and a File one of its files. Outside this
// package they are for tests, which put a disk in that fails, or is slow.
type (
	Disk = disk
	File = file
)

// RealDisk is the one that a log is written on otherwise.
func RealDisk() Disk { return osDisk{} }

// On returns the options of a log on d.
func (o Options) On(d Disk) Options {
	o.disk = d
	return o
}
