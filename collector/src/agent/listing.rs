//! The table as operators see it.

use super::source::{Incarnation, Source, State};
use super::table::Table;
use crate::naming::path_text;
use crate::wire::{IncarnationBody, IncarnationState, ReaderBody, SourceBody, Sources};

/// All sources that are items, by item.
pub fn list(table: &Table) -> Sources {
    let mut sources: Vec<SourceBody> = table.items().map(source).collect();
    sources.sort_by(|a, b| a.item.cmp(&b.item));
    Sources {
        sources,
        unreadable: table.unreadable.listed.clone(),
        unreadable_omitted: table.unreadable.omitted,
        index_error: table.index_error.clone(),
    }
}

fn source(source: &Source) -> SourceBody {
    SourceBody {
        item: source.item.clone(),
        path: path_text(&source.path),
        file: source.file.clone(),
        incarnations: source.incarnations.iter().map(|i| incarnation(source, i)).collect(),
        reader: source
            .reader
            .map(|reader| ReaderBody { incarnation: reader.incarnation, offset: reader.offset }),
        gaps: source.gaps.clone(),
    }
}

fn incarnation(source: &Source, incarnation: &Incarnation) -> IncarnationBody {
    let (state, path) = match &incarnation.state {
        State::Live => (IncarnationState::Live, Some(&source.path)),
        State::Away { at } => (IncarnationState::Away, at.as_ref()),
        State::Lost(_) => (IncarnationState::Lost, None),
    };
    IncarnationBody {
        incarnation: incarnation.number,
        size: incarnation.trace.stat.size,
        state,
        path: path.map(|path| path_text(path)),
        reason: match incarnation.state {
            State::Lost(loss) => Some(loss.reason),
            State::Live | State::Away { .. } => None,
        },
    }
}
