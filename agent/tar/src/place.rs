//! Where a copy goes: the rules of `docker cp`, decided by whoever receives.

/// What is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Anything but a folder.
    File,
    /// A folder, under its name.
    Folder,
    /// What is in a folder (`SRC/.`).
    Contents,
}

/// What is at the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Missing,
    /// Anything but a folder; links were followed.
    File,
    Folder,
}

/// Where the source goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Into the destination, a folder: under the source's own name, or the contents themselves.
    Into,
    /// To the destination's own name, in the folder above.
    As,
}

/// Why a copy cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("the destination folder does not exist")]
    NoFolder,
    #[error("the destination is no folder")]
    NotFolder,
    #[error("a folder cannot be copied onto a file")]
    FolderOntoFile,
}

/// Decides. `wants_folder`: the destination was written with a slash at its end.
pub fn place(source: Source, found: Found, wants_folder: bool) -> Result<Place, PlaceError> {
    match (source, found) {
        (_, Found::Folder) => Ok(Place::Into),
        (Source::File, Found::Missing) if wants_folder => Err(PlaceError::NoFolder),
        (_, Found::Missing) => Ok(Place::As),
        (Source::File, Found::File) if wants_folder => Err(PlaceError::NotFolder),
        (Source::File, Found::File) => Ok(Place::As),
        (Source::Folder | Source::Contents, Found::File) => Err(PlaceError::FolderOntoFile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_table() {
        use Found::{File as IsFile, Folder as IsFolder, Missing};
        use Source::{Contents, File, Folder};
        for (source, found, slash, want) in [
            (File, Missing, false, Ok(Place::As)),
            (File, Missing, true, Err(PlaceError::NoFolder)),
            (File, IsFile, false, Ok(Place::As)),
            (File, IsFile, true, Err(PlaceError::NotFolder)),
            (File, IsFolder, false, Ok(Place::Into)),
            (Folder, Missing, false, Ok(Place::As)),
            (Folder, Missing, true, Ok(Place::As)),
            (Folder, IsFile, false, Err(PlaceError::FolderOntoFile)),
            (Folder, IsFolder, true, Ok(Place::Into)),
            (Contents, Missing, false, Ok(Place::As)),
            (Contents, IsFile, false, Err(PlaceError::FolderOntoFile)),
            (Contents, IsFolder, false, Ok(Place::Into)),
        ] {
            assert_eq!(place(source, found, slash), want, "{source:?} {found:?} {slash}");
        }
    }
}
